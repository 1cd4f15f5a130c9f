import { DEFAULT_PATIENCE } from '../../coordinator/core/tiers.ts'

/** How a job without wishes, pins and policy is placed. */
export const FREE = {
  pinnedTier: null,
  policy: null,
  key: null,
  streamed: true,
  terms: { patience: DEFAULT_PATIENCE, purses: [] },
  needs: [],
  restartless: false,
}
