-- An idempotency key may name what an administrator made (a key, a team, a provider) too: by the id of its row.
alter table idempotency_keys
  add column made uuid,
  drop constraint names_one_thing,
  add constraint names_one_thing check (num_nonnulls(job, batch, file, made) = 1);
