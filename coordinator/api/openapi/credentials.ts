import { json, NAME_OR_ID, type Noun, PAGED, sent } from './noun.ts'
import { body, flag, ID, orNull, pageOf, ref, text, TIME, view, whole } from './schema.ts'

export const credentials: Noun = {
  name: 'Credentials',
  about: 'What clouds are called with: written, rotated and revoked here, never read back. All of it needs an admin.',
  routes: [
    {
      method: 'get',
      path: '/api/credentials',
      summary: 'List credentials, newest first',
      query: PAGED,
      answers: { 200: json(pageOf(ref('Credential')), 'A page of credentials, without their secrets') },
    },
    {
      method: 'get',
      path: '/api/credentials/{id}',
      summary: 'Read a credential',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Credential'), 'It, without its secret') },
    },
    {
      method: 'post',
      path: '/api/credentials',
      repeatable: true,
      summary: 'Keep a secret',
      body: sent(body({ name: text(undefined, 64), secret: text(undefined, 16_384) }, ['name', 'secret']), {
        name: 'far-key',
        secret: 'the secret',
      }),
      answers: { 201: json(ref('Credential'), 'The credential') },
    },
    {
      method: 'patch',
      path: '/api/credentials/{id}',
      summary: 'Give a credential another name',
      params: NAME_OR_ID,
      body: sent(body({ name: text(undefined, 64) }, ['name']), { name: 'near-key' }),
      answers: { 200: json(ref('Credential'), 'The credential') },
    },
    {
      method: 'delete',
      path: '/api/credentials/{id}',
      summary: 'Archive a credential',
      about: 'Its secret is gone for good. Refused while a provider is called with it.',
      params: NAME_OR_ID,
      answers: { 200: json(view({ id: ID, name: text(), archived: { const: true } }), 'It is gone') },
    },
    {
      method: 'post',
      path: '/api/credentials/{id}/rotate',
      summary: 'Replace a secret',
      params: NAME_OR_ID,
      body: sent(body({ secret: text(undefined, 16_384), if_changed: flag('Do nothing where it is the same') }, ['secret']), {
        secret: 'the new secret',
      }),
      answers: { 200: json(ref('Credential'), 'The credential') },
    },
    {
      method: 'post',
      path: '/api/credentials/{id}/revoke',
      summary: 'Forget a secret',
      params: NAME_OR_ID,
      answers: { 200: json(ref('Credential'), 'The credential') },
    },
    {
      method: 'post',
      path: '/api/credentials/rotate_master_key',
      summary: 'Seal every secret anew under another master key',
      about: 'Needs an owner.',
      body: {
        schema: body({ master_key: orNull(text('At least 16 characters; one is made where none is given', 1_024)) }),
        example: {},
        optional: true,
      },
      answers: {
        200: json(
          view({
            secrets: whole('How many were sealed anew'),
            master_key: orNull(text('Shown once, where a setting holds the old one')),
            next: text('What to do now'),
          }),
          'It is done',
        ),
      },
    },
  ],
  schemas: {
    Credential: view({ id: ID, name: text(), version: whole(), created_at: TIME, rotated_at: orNull(TIME), revoked_at: orNull(TIME) }),
  },
}
