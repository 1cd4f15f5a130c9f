-- How much of the answer earlier attempts had brought when the last one began: what that one brought is the rest.
alter table jobs add column tokens_before integer not null default 0;
