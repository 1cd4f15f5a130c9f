-- Answers are more than text: reasoning, tool calls, log probabilities.

alter table job_progress
  -- What these tokens released besides text: a list of AnswerDelta of proto/answer.ts.
  add column extra json;

alter table jobs drop constraint jobs_type_check;
alter table jobs add constraint jobs_type_check check (type in ('chat', 'completion', 'embedding', 'rerank'));

alter table jobs
  add column pinned_tier text check (pinned_tier in ('gpu', 'cli', 'cloud')),
  -- The policy of patience it was accepted under; null: the default one.
  add column policy text,
  -- Abilities that its model must have, separated by commas.
  add column needs text,
  -- What its last attempt ran, where `auto` was asked for.
  add column served_model text;
