import { pino } from 'pino'

/**
 * Standard output, for logs. A disk that is full keeps what could not be written for a while, up to a bound; nobody can be told
 * of it here, and it is no reason to stop serving.
 */
export function logOutput(): pino.DestinationStream {
  const output = pino.destination({ dest: 1, sync: true, maxLength: KEPT_BYTES_MAX })
  output.on('error', () => {})
  return output
}

const KEPT_BYTES_MAX = 65_536
