import { Socket } from 'node:net'

/**
 * Sockets for connections to PostgreSQL, which can be cut all at once: a goodbye that the network does not carry is waited for
 * for a quarter of an hour.
 */
export type TrackedSockets = { stream: () => Socket; hangUp: () => Promise<void> }

export function trackSockets(): TrackedSockets {
  const sockets = new Set<Socket>()
  const stream = (): Socket => {
    const socket = new Socket()
    sockets.add(socket)
    return socket.once('close', () => sockets.delete(socket))
  }
  const hangUp = async (): Promise<void> => {
    const open = [...sockets].filter((socket) => !socket.destroyed)
    await Promise.all(open.map((socket) => new Promise((resolve) => socket.once('close', resolve).destroy())))
  }
  return { stream, hangUp }
}
