import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** Those that wait for the deaths of real processes take minutes: one that began last would run alone at the end. */
const SLOWEST = 'deaths start cloud-faults async-jobs leases simulation outages idempotency policies fleet-doors'.split(' ')

class SlowestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const index = SLOWEST.findIndex((name) => moduleId.endsWith(`/${name}.test.ts`))
      return index === -1 ? SLOWEST.length : index
    }
    return files.toSorted((left, right) => place(left) - place(right))
  }
}

export default defineConfig({
  test: {
    include: ['test/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    sequence: { sequencer: SlowestFirst },
    globalSetup: 'test/support/template.ts',
    // Real processes on a busy machine of two cores: a test that hangs is told by this, one that is slow is not.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    reporters: process.env.CI === undefined ? ['default'] : ['default', ['json', { outputFile: 'coverage/results.json' }]],
  },
})
