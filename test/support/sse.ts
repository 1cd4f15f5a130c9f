export type SseEvent = { event?: string; id?: string; data?: string; comment?: string }

/** Reads server-sent events, comments included. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<SseEvent> {
  const decoder = new TextDecoder()
  let buffer = ''
  for await (const part of body) {
    buffer += decoder.decode(part, { stream: true })
    for (let cut = buffer.indexOf('\n\n'); cut >= 0; cut = buffer.indexOf('\n\n')) {
      const event: SseEvent = {}
      for (const line of buffer.slice(0, cut).split('\n')) {
        if (line.startsWith(':')) event.comment = line.slice(1).trim()
        else if (line.startsWith('data: ')) event.data = line.slice(6)
        else if (line.startsWith('event: ')) event.event = line.slice(7)
        else if (line.startsWith('id: ')) event.id = line.slice(4)
      }
      buffer = buffer.slice(cut + 2)
      yield event
    }
  }
}
