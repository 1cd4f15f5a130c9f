import { json, NAME_OR_ID, type Noun, PAGED_BY_NAME, sent } from './noun.ts'
import { body, either, ID, MICROS, oneOf, orNull, pageOf, real, ref, type Schema, text, TIME, view } from './schema.ts'

const OPENING: Schema = either([
  oneOf(['at_once', 'when_offline', 'never']),
  body({ after_s: real('Seconds of waiting', 0, 2_592_000) }, ['after_s']),
])
const TIERS = body({ gpu: OPENING, cli: OPENING, cloud: OPENING })
const POLICY: Record<string, Schema> = { tiers: TIERS, spend_micros_per_day: orNull(MICROS) }

export const policies: Noun = {
  name: 'Policies',
  about: 'When a tier opens to a job, and how much may be spent under one policy in a day. A tier that is not named never opens.',
  routes: [
    {
      method: 'get',
      path: '/api/policies',
      summary: 'List policies, newest first',
      query: PAGED_BY_NAME,
      answers: { 200: json(pageOf(ref('Policy'), { default: ref('Openings') }), 'A page of policies, and what holds without one') },
    },
    {
      method: 'get',
      path: '/api/policies/{id}',
      summary: 'Read a policy',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Policy'), 'The policy') },
    },
    {
      method: 'post',
      path: '/api/policies',
      repeatable: true,
      summary: 'Make a policy',
      about: 'Needs an admin.',
      body: sent(body({ name: text(undefined, 64), ...POLICY }, ['name', 'tiers']), {
        name: 'patient',
        tiers: { gpu: 'at_once', cloud: { after_s: 60 } },
      }),
      answers: { 201: json(ref('Policy'), 'The policy') },
    },
    {
      method: 'patch',
      path: '/api/policies/{id}',
      summary: 'Change a policy',
      about: 'Needs an admin.',
      params: NAME_OR_ID,
      body: sent(body(POLICY), { spend_micros_per_day: 5_000_000 }),
      answers: { 200: json(ref('Policy'), 'The policy') },
    },
    {
      method: 'delete',
      path: '/api/policies/{id}',
      summary: 'Archive a policy that no team is under',
      about: 'Needs an admin.',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Policy'), 'The policy, archived') },
    },
  ],
  schemas: {
    Openings: view({ gpu: OPENING, cli: OPENING, cloud: OPENING }),
    Policy: view(
      {
        id: ID,
        name: text(),
        tiers: ref('Openings'),
        spend_micros_per_day: orNull(MICROS),
        spent_micros_today: MICROS,
        created_at: TIME,
        archived: { const: true },
      },
      ['archived'],
    ),
  },
}
