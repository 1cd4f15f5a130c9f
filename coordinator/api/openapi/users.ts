import { json, type Noun, PAGED, sent } from './noun.ts'
import { body, ID, list, oneOf, pageOf, ref, type Schema, text, TIME, view } from './schema.ts'

const EMAIL_OR_ID = { id: 'Its id or address' }
const ROLE = oneOf(['owner', 'admin', 'operator', 'approver', 'member', 'viewer'])
const SETTINGS: Record<string, Schema> = {
  name: text(undefined, 128),
  role: ROLE,
  teams: list(text('A team'), 'Whose work it sees', 100),
}

export const users: Noun = {
  name: 'Users',
  about: 'People: a role says what their keys may do. All of it needs an admin, and an owner where it is about owners.',
  routes: [
    {
      method: 'get',
      path: '/api/users',
      summary: 'List users, newest first',
      query: PAGED,
      answers: { 200: json(pageOf(ref('User')), 'A page of users') },
    },
    {
      method: 'get',
      path: '/api/users/{id}',
      summary: 'Read a user',
      params: EMAIL_OR_ID,
      answers: { 200: json(ref('User'), 'The user') },
    },
    {
      method: 'post',
      path: '/api/users',
      repeatable: true,
      summary: 'Make a user',
      body: sent(body({ email: text(undefined, 254), ...SETTINGS }, ['email']), {
        email: 'ann@example.com',
        role: 'member',
        teams: ['default'],
      }),
      answers: { 201: json(ref('User'), 'The user') },
    },
    {
      method: 'patch',
      path: '/api/users/{id}',
      summary: 'Change a user',
      params: EMAIL_OR_ID,
      body: sent(body(SETTINGS), { role: 'operator' }),
      answers: { 200: json(ref('User'), 'The user') },
    },
    {
      method: 'delete',
      path: '/api/users/{id}',
      summary: 'Archive a user',
      params: EMAIL_OR_ID,
      answers: { 200: json(ref('User'), 'The user, archived') },
    },
  ],
  schemas: {
    User: view({ id: ID, email: text(), name: text(), role: ROLE, teams: list(text()), created_at: TIME, archived: { const: true } }, [
      'archived',
    ]),
  },
}
