import { json, type Noun } from './noun.ts'
import { flag, list, ref, text, view, whole } from './schema.ts'

export const health: Noun = {
  name: 'Health and description',
  about: 'Whether it is all right, and what can be asked.',
  routes: [
    {
      method: 'get',
      path: '/api/health',
      summary: 'Is it all right?',
      answers: { 200: json(ref('Health'), 'What is wrong, if anything') },
    },
    {
      method: 'get',
      path: '/api/openapi.json',
      summary: 'This description, as OpenAPI 3.1',
      open: true,
      answers: { 200: json({ type: 'object' }, 'The document') },
    },
    {
      method: 'get',
      path: '/docs',
      summary: 'This description, to read',
      open: true,
      answers: { 200: { about: 'A page without scripts', type: 'text/html', schema: text() } },
    },
    {
      method: 'get',
      path: '/',
      summary: 'A list of doors',
      open: true,
      answers: { 200: json({ type: 'object' }, 'Name, version and doors') },
    },
    {
      method: 'get',
      path: '/healthz',
      summary: 'Is the process alive?',
      open: true,
      answers: { 200: json(view({ status: { const: 'ok' } }), 'It is') },
    },
    {
      method: 'get',
      path: '/readyz',
      summary: 'Does it accept work?',
      open: true,
      answers: {
        200: json(view({ status: { const: 'ready' } }), 'It does'),
        503: json(view({ status: { const: 'not_ready' }, reason: text() }), 'It does not, and why'),
      },
    },
    {
      method: 'get',
      path: '/metrics',
      summary: 'Metrics for Prometheus',
      open: true,
      answers: { 200: { about: 'The text format of Prometheus', type: 'text/plain', schema: text() } },
    },
  ],
  schemas: {
    Health: view({
      ok: flag(),
      problems: list(text()),
      version: text(),
      workers: view({ online: whole(), suspect: whole(), draining: whole(), offline: whole() }),
      jobs: view({
        running: whole(),
        waiting: whole(),
        waiting_by_reason: list(view({ model: text(), reason: text(), count: whole() })),
      }),
      database: view({ reachable: flag() }),
    }),
  },
}
