import { json, type Noun, PAGED_BY_NAME } from './noun.ts'
import { oneOf, orNull, pageOf, ref, text, TIME, view, whole } from './schema.ts'

export const quotas: Noun = {
  name: 'Quotas',
  about: 'What providers, policies, teams and keys may use in a minute, a day or a month, and what is used of it.',
  routes: [
    {
      method: 'get',
      path: '/api/quotas',
      summary: 'List limits and what is used of them',
      about: "Those of providers and policies are everybody's; of teams and keys one sees one's own.",
      query: PAGED_BY_NAME,
      answers: { 200: json(pageOf(ref('Quota')), 'A page of limits') },
    },
  ],
  schemas: {
    Quota: view({
      kind: oneOf(['provider', 'policy', 'team', 'key']),
      id: text(),
      name: text(),
      limit: oneOf(['requests_per_minute', 'tokens_per_minute', 'spend_micros_per_day', 'spend_micros_per_month']),
      allowed: whole(),
      used: whole(),
      remaining: whole(),
      resets_at: orNull({ ...TIME, description: 'When it is whole again; null while nothing of the minute is used' }),
    }),
  },
}
