import { json, NAME_OR_ID, type Noun, PAGED, sent } from './noun.ts'
import { body, flag, ID, MICROS, orNull, pageOf, real, ref, type Schema, text, TIME, view, whole } from './schema.ts'

const RULES: Record<string, Schema> = {
  weight: real('Its share of a busy fleet, beside the weights of the others', 0.001, 1_000_000),
  max_parallel: orNull(whole('Jobs at once', 1, 1_000_000)),
  policy: orNull(text('The policy that its jobs are under', 64)),
  spend_micros_per_day: orNull(MICROS),
  spend_micros_per_month: orNull(MICROS),
}

export const teams: Noun = {
  name: 'Teams',
  about: 'They share the fleet by weight; keys, jobs and the secret that signs callbacks belong to one. All of it needs an admin.',
  routes: [
    {
      method: 'get',
      path: '/api/teams',
      summary: 'List teams, newest first',
      query: PAGED,
      answers: { 200: json(pageOf(ref('Team')), 'A page of teams') },
    },
    { method: 'get', path: '/api/teams/{id}', summary: 'Read a team', params: NAME_OR_ID, answers: { 200: json(ref('Team'), 'The team') } },
    {
      method: 'post',
      path: '/api/teams',
      repeatable: true,
      summary: 'Make a team',
      body: sent(body({ name: text(undefined, 64), ...RULES }, ['name']), { name: 'research', weight: 2 }),
      answers: { 201: json(ref('TeamWithSecret'), 'The team, with the secret of its callbacks, shown once') },
    },
    {
      method: 'patch',
      path: '/api/teams/{id}',
      summary: 'Change a team',
      about: 'What is not named stays as it was; null takes a limit away.',
      params: NAME_OR_ID,
      body: sent(body(RULES), { max_parallel: 8 }),
      answers: { 200: json(ref('Team'), 'The team') },
    },
    {
      method: 'delete',
      path: '/api/teams/{id}',
      summary: 'Archive a team',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Team'), 'The team, archived') },
    },
    {
      method: 'post',
      path: '/api/teams/{id}/rotate_webhook_secret',
      summary: 'Replace the secret of its callbacks',
      params: NAME_OR_ID,
      answers: { 200: json(ref('TeamWithSecret'), 'The team, with the new secret, shown once') },
    },
  ],
  schemas: {
    Team: view({ id: ID, name: text(), ...RULES, signs_callbacks: flag(), created_at: TIME, archived: { const: true } }, ['archived']),
    TeamWithSecret: view({
      id: ID,
      name: text(),
      ...RULES,
      signs_callbacks: flag(),
      created_at: TIME,
      webhook_secret: orNull(text('whsec_…; null: repeated, and another took its place since')),
    }),
  },
}
