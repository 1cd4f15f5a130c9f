import type { FastifyRequest } from 'fastify'

/**
 * In whose words a request is answered, errors too. A path that both dialects have, or none, is answered in the dialect of
 * the headers: clients of Anthropic's always send theirs.
 */
export function dialectOf(request: Pick<FastifyRequest, 'url' | 'headers'>): 'openai' | 'anthropic' | 'native' {
  const { url, headers } = request
  if (!url.startsWith('/v1/')) return 'native'
  return /^\/v1\/messages(?:[/?]|$)/.test(url) || headers['anthropic-version'] !== undefined ? 'anthropic' : 'openai'
}
