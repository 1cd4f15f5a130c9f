import { expect, test, vi } from 'vitest'
import { playScenario } from './support/simulated-scenario.ts'

/**
 * Coordinator, workers, network, database and callers in virtual time, under loss, delay, duplication, pauses, crashes and
 * clock jumps (test/support/simulated-*.ts). Real are the scheduler, the dispatcher, both ends of the session and the
 * worker's slots and attempts; simulated are gRPC, PostgreSQL, the models, the callers and time.
 *
 *   accepted ⇒ exactly one end, with its cause     a worker never gets more than its slots     nobody overtakes in a line
 *   at most one attempt that is listened to        no team above its limit                     no class starves
 *   an answer is one text, each character once     nothing waits beside a slot it may have     every wait has a true reason
 *   acknowledged ⇒ stored                          every limit of time is kept                 same seed, same history
 *
 * `HOLDFAST_TEST_SEED=123 npx vitest run test/simulation.test.ts` plays one scenario and prints what happened.
 */
vi.mock('../proto/link.ts', async (original) => {
  const { dialSimulated } = await import('./support/simulated-network.ts')
  return { ...(await original<object>()), dialLink: dialSimulated }
})

const SCENARIOS = 10_000
const wanted = process.env.HOLDFAST_TEST_SEED

test.skipIf(wanted !== undefined)(
  `${SCENARIOS} scenarios of deaths, delays and doubles end well, and the same way twice`,
  async () => {
    for (let seed = 1; seed <= SCENARIOS; seed++) {
      const { error, fingerprint } = playScenario(seed)
      if (error !== null) throw new Error(`${error.message}\n${replay(seed)}`, { cause: error })
      expect(playScenario(seed).fingerprint, `the second run differs\n${replay(seed)}`).toBe(fingerprint)
      // The runner hears from its tests now and then, or it takes them for dead.
      if (seed % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
  },
  300_000,
)

test.runIf(wanted !== undefined)(`scenario ${wanted}`, () => {
  const { error, trace } = playScenario(Number(wanted), true)
  console.log(trace.join('\n'))
  if (error !== null) throw error
})

function replay(seed: number): string {
  return `HOLDFAST_TEST_SEED=${seed} npx vitest run test/simulation.test.ts`
}
