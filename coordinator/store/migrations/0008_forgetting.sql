-- A job that is forgotten frees its key: found by the job, and not by reading a week of keys.
create index idempotency_keys_job on idempotency_keys (job) where job is not null;
