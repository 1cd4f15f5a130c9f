import type { FastifyInstance } from 'fastify'
import { openApiDocument } from './openapi/document.ts'
import { contentPolicy, describingPage } from './openapi/page.ts'
import { readQuery } from './paging.ts'

/** What can be asked here, for programs and for people. It holds nothing of this installation but its version. */
export function registerDescription(app: FastifyInstance, version: string): void {
  const document = openApiDocument(version)
  const text = JSON.stringify(document)
  const page = describingPage(document)
  const policy = contentPolicy()

  app.get('/api/openapi.json', async (request, reply) => {
    readQuery(request.query, [])
    return reply.type('application/json; charset=utf-8').send(text)
  })

  app.get('/docs', async (request, reply) => {
    readQuery(request.query, [])
    return reply
      .type('text/html; charset=utf-8')
      .headers({ 'content-security-policy': policy, 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' })
      .send(page)
  })
}
