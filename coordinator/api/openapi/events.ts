import { EVENT_SEVERITY } from '../../core/event.ts'
import { json, type Noun, PAGED } from './noun.ts'
import { ID, oneOf, orNull, pageOf, ref, type Schema, text, TIME, view } from './schema.ts'

const SEVERITY = oneOf(['debug', 'info', 'warning', 'error'])
const TYPE: Schema = { type: 'string', description: 'As in `job.succeeded`' }

export const events: Noun = {
  name: 'Events',
  about: 'What happened, written once and never changed. A team sees its own.',
  routes: [
    {
      method: 'get',
      path: '/api/events',
      summary: 'List events, newest first',
      query: { ...PAGED, severity: SEVERITY, type: TYPE, job: { ...ID, description: 'A job' }, trace_id: text('32 hexadecimal digits') },
      answers: { 200: json(pageOf(ref('Event')), 'A page of events') },
    },
    {
      method: 'get',
      path: '/api/events/stream',
      summary: 'Follow new events as server-sent events',
      about:
        'Each is an event of its own type, with its id and what the list shows of it, about half a second after it is durable; a comment every 15 seconds. With Last-Event-ID it begins after that event. An event that comes twice after a return has one id.',
      query: { severity: SEVERITY, type: TYPE },
      headers: { 'last-event-id': { ...ID, description: 'The id of the last event that was read' } },
      answers: { 200: { about: 'The events, until the caller leaves', type: 'text/event-stream', schema: text() } },
    },
  ],
  schemas: {
    Event: view({
      id: ID,
      at: TIME,
      severity: SEVERITY,
      type: oneOf(Object.keys(EVENT_SEVERITY)),
      actor: text('Who caused it: key:<name>, worker:<name or id>, worker, http or coordinator'),
      team: orNull(text()),
      job: orNull(ID),
      run: { type: 'null', description: 'Not there yet' },
      thread: { type: 'null', description: 'Not there yet' },
      provider: orNull(text()),
      worker: orNull(text()),
      trace_id: orNull(text()),
      details: { type: 'object', description: 'Never a prompt, an answer or a secret' },
    }),
  },
}
