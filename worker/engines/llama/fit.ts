import { existsSync, statSync } from 'node:fs'

/** Trying a GPU that is not there takes a second of every start, and of every restart after a crash. */
export function mayHaveGpu(): boolean {
  return process.platform !== 'linux' || GPU_DEVICES.some((device) => existsSync(device))
}

/** NVIDIA, AMD's compute driver, any graphics driver (Vulkan), and Windows' subsystem for Linux. */
const GPU_DEVICES = ['/dev/nvidiactl', '/dev/kfd', '/dev/dri', '/dev/dxg']

export function sizeOfModel(path: string): number {
  const size = statSync(path, { throwIfNoEntry: false })?.size
  if (size === undefined) throw new Error(`there is no model file ${path}: put it there, or correct the model's path`)
  return size
}

/** What is tried next where memory is too short: fewer slots, then a smaller context; undefined: nothing. */
export function smallerContext({
  slots,
  contextTokens,
}: {
  slots: number
  contextTokens: number
}): { slots: number; contextTokens: number } | undefined {
  if (slots > 1) return { slots: Math.ceil(slots / 2), contextTokens }
  if (contextTokens > CONTEXT_TOKENS_MIN) return { slots, contextTokens: Math.max(CONTEXT_TOKENS_MIN, Math.floor(contextTokens / 2)) }
  return undefined
}

const CONTEXT_TOKENS_MIN = 512
