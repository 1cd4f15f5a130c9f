import { TIER } from './jobs.ts'
import { json, type Noun, PAGED, sent } from './noun.ts'
import { body, flag, ID, list, MICROS, oneOf, orNull, pageOf, ref, type Schema, text, TIME, view, whole } from './schema.ts'

const KEY = { id: 'The id of the key' }
const LIMITS: Record<string, Schema> = {
  requests_per_minute: orNull(whole(undefined, 1, 10_000_000)),
  spend_micros_per_day: orNull(MICROS),
}
const NARROWED: Record<string, Schema> = {
  scopes: orNull(list(oneOf(['inference', 'read', 'admin']), 'Null: all that its holder may')),
  models: orNull(list(text(), 'Null: all', 1_000)),
  tiers: orNull(list(TIER, 'Null: all')),
}

export const keys: Noun = {
  name: 'Keys',
  about: 'What callers and workers present. A key is shown once, and stored as its SHA-256. All of it needs an admin.',
  routes: [
    {
      method: 'get',
      path: '/api/keys',
      summary: 'List keys, newest first',
      query: PAGED,
      answers: { 200: json(pageOf(ref('Key')), 'A page of keys') },
    },
    {
      method: 'get',
      path: '/api/keys/{id}',
      summary: 'Read what a key is',
      params: KEY,
      answers: { 200: json(ref('Key'), 'It, without the key itself') },
    },
    {
      method: 'post',
      path: '/api/keys',
      repeatable: true,
      summary: 'Make a key',
      about: 'A team key names a team, a personal one a user, one of a worker neither.',
      body: sent(
        body(
          {
            name: text(undefined, 128),
            kind: oneOf(['personal', 'team', 'worker']),
            team: text(undefined, 64),
            user: text('Id or address', 254),
            ...NARROWED,
            expires_at: orNull(TIME),
            limits: orNull(body(LIMITS)),
          },
          ['name', 'kind'],
        ),
        { name: 'app', kind: 'team', team: 'default', scopes: ['inference'] },
      ),
      answers: { 201: json(ref('NewKey'), 'The key, shown once') },
    },
    {
      method: 'patch',
      path: '/api/keys/{id}',
      summary: 'Change a key',
      about: 'What is not named stays as it was; null takes a limit away. It holds from its next request on.',
      params: KEY,
      body: sent(body({ name: text(undefined, 128), ...NARROWED, expires_at: orNull(TIME), limits: orNull(body(LIMITS)) }), {
        limits: { requests_per_minute: 60 },
      }),
      answers: { 200: json(ref('Key'), 'The key') },
    },
    {
      method: 'delete',
      path: '/api/keys/{id}',
      summary: 'Revoke a key, likewise',
      params: KEY,
      answers: { 200: json(ref('Key'), 'What it was') },
    },
    {
      method: 'post',
      path: '/api/keys/{id}/revoke',
      summary: 'Revoke a key',
      about: 'It is refused from its next request on.',
      params: KEY,
      answers: { 200: json(ref('Key'), 'What it was') },
    },
  ],
  schemas: {
    Key: view(keyMembers()),
    NewKey: view({ ...keyMembers(), key: text('The key itself') }),
  },
}

function keyMembers(): Record<string, Schema> {
  return {
    id: ID,
    name: text(),
    kind: oneOf(['bootstrap', 'personal', 'team', 'worker', 'intake']),
    team: orNull(text()),
    user: orNull(ID),
    ...NARROWED,
    limits: view(LIMITS),
    ends_with: text('Its last four characters'),
    created_at: TIME,
    expires_at: orNull(TIME),
    revoked_at: orNull(TIME),
    single_use: flag('An invite: one worker may join with it'),
    spent_by: orNull({ ...ID, description: 'The worker that did' }),
  }
}
