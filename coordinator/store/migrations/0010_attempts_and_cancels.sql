-- How much of the answer earlier attempts had brought when the last one began: what that one brought is the rest.
alter table jobs add column tokens_before integer not null default 0;

-- Every coordinator looks every few seconds at what was cancelled lately.
create index batches_cancelled on batches (cancelled_at) where cancelled_at is not null;
