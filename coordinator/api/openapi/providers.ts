import { TIER } from './jobs.ts'
import { json, NAME_OR_ID, type Noun, PAGED_BY_NAME, sent } from './noun.ts'
import { anything, body, ID, list, MICROS, oneOf, orNull, pageOf, real, ref, type Schema, text, TIME, view, whole } from './schema.ts'

const LIMITS: Record<string, Schema> = {
  requests_per_minute: orNull(whole(undefined, 1, 10_000_000)),
  tokens_per_minute: orNull(whole(undefined, 1, 2_000_000_000)),
  spend_micros_per_day: orNull(MICROS),
  spend_micros_per_month: orNull(MICROS),
}

const SETTINGS: Record<string, Schema> = {
  kind: oneOf(['openai', 'anthropic'], 'The dialect it speaks'),
  base_url: text('An http:// or https:// address without a key', 2_000),
  credential: orNull(text('The name of a credential', 64)),
  models: orNull(list(ref('ProviderModelSettings'), 'Left out or null: all that it lists itself', 1_000)),
  max_parallel: whole('16 unless given', 1, 100_000),
  limits: body(LIMITS),
  first_token_timeout_s: orNull(real(undefined, 0.1, 86_400)),
  next_token_timeout_s: orNull(real(undefined, 0.1, 86_400)),
}

export const providers: Noun = {
  name: 'Providers',
  about: 'Everything that can run a job, in one shape: workers, which say themselves what they are, and clouds, which are set here.',
  routes: [
    {
      method: 'get',
      path: '/api/providers',
      summary: 'List providers, newest first',
      query: PAGED_BY_NAME,
      answers: { 200: json(pageOf(ref('Provider')), 'A page of them') },
    },
    {
      method: 'get',
      path: '/api/providers/{id}',
      summary: 'Read a provider',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Provider'), 'The provider') },
    },
    {
      method: 'post',
      path: '/api/providers',
      repeatable: true,
      summary: 'Set a cloud provider up',
      about: 'Needs an admin.',
      body: sent(body({ name: text(undefined, 64), tier: { const: 'cloud' }, ...SETTINGS }, ['name', 'tier', 'kind', 'base_url']), {
        name: 'far',
        tier: 'cloud',
        kind: 'openai',
        base_url: 'https://api.example.com/v1',
        credential: 'far-key',
      }),
      answers: { 201: json(ref('Provider'), 'The provider') },
    },
    {
      method: 'patch',
      path: '/api/providers/{id}',
      summary: 'Change a cloud provider',
      about: 'Needs an admin. What is not named stays as it was.',
      params: NAME_OR_ID,
      body: sent(body({ name: text('Its own: it keeps its name', 64), tier: { const: 'cloud' }, ...SETTINGS }), { max_parallel: 4 }),
      answers: { 200: json(ref('Provider'), 'The provider') },
    },
    {
      method: 'post',
      path: '/api/providers/{id}/drain',
      summary: 'Give a provider nothing new',
      about: 'Needs an operator. Calls under way finish. A worker ends thereafter; a cloud stays so until it is activated.',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Provider'), 'The provider') },
    },
    {
      method: 'post',
      path: '/api/providers/{id}/activate',
      summary: 'Give a drained cloud work again',
      about: 'Needs an operator.',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Provider'), 'The provider') },
    },
    {
      method: 'post',
      path: '/api/providers/{id}/revoke',
      summary: 'Cut a worker off',
      about:
        'Needs an admin. What it runs goes on elsewhere, and its identity is refused from now on. Of a cloud its credential is revoked instead.',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Provider'), 'The provider') },
    },
    {
      method: 'delete',
      path: '/api/providers/{id}',
      summary: 'Archive a cloud provider',
      about: 'Needs an admin.',
      params: NAME_OR_ID,
      answers: { 200: json(view({ id: ID, name: text(), archived: { const: true } }), 'It is archived') },
    },
  ],
  schemas: {
    ProviderModelSettings: body(
      {
        name: text('What is asked for here', 200),
        upstream: text('What it is called there', 200),
        input_micros_per_mtok: orNull(
          whole(
            'Millionths of the currency for a million tokens. Left out: not known, and closed to who may spend nothing',
            0,
            1_000_000_000_000,
          ),
        ),
        output_micros_per_mtok: orNull(whole('Likewise', 0, 1_000_000_000_000)),
        cached_input_micros_per_mtok: orNull(
          whole('For what the provider read from its cache. Left out: as for all of the prompt', 0, 1_000_000_000_000),
        ),
        cache_write_input_micros_per_mtok: orNull(whole('For what it wrote to its cache. Left out: likewise', 0, 1_000_000_000_000)),
        abilities: orNull(list(text())),
        first_token_timeout_s: orNull(real('In place of that of the provider', 0.1, 86_400)),
        next_token_timeout_s: orNull(real('Likewise', 0.1, 86_400)),
      },
      ['name'],
    ),
    Provider: view(
      {
        id: ID,
        name: text(),
        tier: TIER,
        kind: oneOf(['worker', 'openai', 'anthropic']),
        state: oneOf(['online', 'busy', 'cooling_down', 'over_quota', 'parked', 'draining', 'offline']),
        reason: orNull(text()),
        until: orNull(TIME),
        busy: whole(),
        max_parallel: whole(),
        quota_remaining_ratio: orNull(real(undefined, 0, 1)),
        models: list(
          anything(
            'Of a worker `name`, `slots`, `state`; of a cloud `name`, `upstream`, prices, and abilities and limits where it has its own',
          ),
        ),
        base_url: text(),
        credential: orNull(text()),
        discovered: list(text(), 'What it lists itself, where no models are set'),
        limits: view(LIMITS),
        spent_micros_today: MICROS,
        first_token_timeout_s: orNull({ type: 'number' }),
        next_token_timeout_s: orNull({ type: 'number' }),
        created_at: TIME,
      },
      // A worker has no settings, and one that is just being set up no state yet.
      [
        'state',
        'reason',
        'until',
        'busy',
        'quota_remaining_ratio',
        'base_url',
        'credential',
        'discovered',
        'limits',
        'spent_micros_today',
        'first_token_timeout_s',
        'next_token_timeout_s',
        'created_at',
      ],
    ),
  },
}
