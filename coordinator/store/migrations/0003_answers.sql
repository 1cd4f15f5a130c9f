-- Answers are more than text: reasoning, tool calls, log probabilities.

alter table job_progress
  -- What these tokens released besides text: a list of AnswerDelta of proto/answer.ts.
  add column extra json;

alter table jobs drop constraint jobs_type_check;
alter table jobs add constraint jobs_type_check check (type in ('chat', 'completion', 'embedding', 'rerank'));
