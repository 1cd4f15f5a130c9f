import { json, type Noun, PAGED_BY_NAME, sent } from './noun.ts'
import { body, either, flag, list, oneOf, orNull, pageOf, ref, type Schema, text, TIME, view, whole } from './schema.ts'
import { TIER } from './jobs.ts'

const DIALECT: Record<string, Schema> = { 'anthropic-version': text("With it, the answer has Anthropic's shape") }
const ALIAS = { name: 'The other name' }

export const models: Noun = {
  name: 'Models',
  about: 'What can be asked for, who offers it, and other names for it.',
  routes: [
    {
      method: 'get',
      path: '/v1/models',
      summary: 'List the models that the key may ask for',
      about: 'Also while their workers are away: a job for one waits. The query parameters are for the shape of Anthropic.',
      headers: DIALECT,
      query: {
        limit: whole('Of the shape of Anthropic', 1, 1_000),
        after_id: text(),
        before_id: text(),
        lifecycle: oneOf(['active', 'deprecated', 'retired'], 'All are active; may be given several times, also as lifecycle[]'),
        beta: oneOf(['true', 'false'], 'Without effect'),
      },
      answers: { 200: json(either([ref('Models'), ref('AnthropicModels')]), 'The models') },
    },
    {
      method: 'get',
      path: '/v1/models/{id}',
      summary: 'Read a model',
      params: { id: 'Its name' },
      headers: DIALECT,
      answers: { 200: json(either([ref('Model'), ref('AnthropicModel')]), 'The model') },
    },
    {
      method: 'get',
      path: '/api/models',
      summary: 'List models with who offers them, by name',
      query: PAGED_BY_NAME,
      answers: { 200: json(pageOf(ref('OfferedModel')), 'A page of models') },
    },
    {
      method: 'get',
      path: '/api/models/{id}',
      summary: 'Read who offers a model',
      params: { id: 'Its name' },
      answers: { 200: json(ref('OfferedModel'), 'The model') },
    },
    {
      method: 'get',
      path: '/api/models/aliases',
      summary: 'List other names of models, newest first',
      query: PAGED_BY_NAME,
      answers: { 200: json(pageOf(view({ name: text(), target: text(), created_at: TIME })), 'A page of names') },
    },
    {
      method: 'put',
      path: '/api/models/aliases/{name}',
      summary: 'Give a model another name',
      about: 'Needs an admin. A circle of names is refused.',
      params: ALIAS,
      body: sent(body({ target: text('A model, or another alias', 200) }, ['target']), { target: 'tiny' }),
      answers: { 200: json(view({ name: text(), target: text() }), 'The alias') },
    },
    {
      method: 'delete',
      path: '/api/models/aliases/{name}',
      summary: 'Take another name away',
      about: 'Needs an admin.',
      params: ALIAS,
      answers: { 200: json(view({ name: text(), removed: { const: true } }), 'It is gone') },
    },
  ],
  schemas: {
    Model: view({ id: text(), object: { const: 'model' }, created: whole(), owned_by: text() }),
    Models: view({ object: { const: 'list' }, data: list(ref('Model')) }),
    AnthropicModel: view({ type: { const: 'model' }, id: text(), display_name: text(), created_at: TIME, lifecycle: text() }),
    AnthropicModels: view({ data: list(ref('AnthropicModel')), has_more: flag(), first_id: orNull(text()), last_id: orNull(text()) }),
    OfferedModel: view({
      name: text(),
      alias_of: orNull(text()),
      providers: list(view({ provider: text(), tier: TIER, state: text(), slots: whole(), abilities: list(text()) })),
    }),
  },
}
