import { createServer } from 'node:net'

/**
 * Ports on 127.0.0.1 that nobody listens on, for processes started a little later. None is given twice by one process, nor by
 * two that Vitest runs side by side: otherwise a coordinator that found its port taken would look ready, since another one
 * answers there. All lie below those that Linux lends to outgoing connections (32768 and up), for the same reason.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports: number[] = []
  while (ports.length < count) {
    const port = FIRST + LANES * (turn++ % TURNS) + lane
    if (await isFree(port)) ports.push(port)
  }
  return ports
}

const FIRST = 16_384
const LANES = 8
const TURNS = 2_048
const lane = Number(process.env.VITEST_POOL_ID ?? 0) % LANES
let turn = Math.floor(Math.random() * TURNS)

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
