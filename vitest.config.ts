import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    globalSetup: 'test/support/template.ts',
    // Real processes on a busy machine of two cores: a test that hangs is told by this, one that is slow is not.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    reporters: process.env.CI === undefined ? ['default'] : ['default', ['json', { outputFile: 'coverage/results.json' }]],
  },
})
