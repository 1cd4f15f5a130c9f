import { DEFAULT_PATIENCE } from '../../coordinator/core/tiers.ts'

/** How a job without wishes, pins and policy is placed. */
export const FREE = {
  pinnedTier: null,
  policy: null,
  terms: { patience: DEFAULT_PATIENCE, purses: [] },
  needs: [],
  restartless: false,
}
