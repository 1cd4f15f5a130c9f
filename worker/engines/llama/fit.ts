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

type Heads = { embedding_length?: number; attention?: { head_count?: number | readonly number[]; key_length?: number } }

/**
 * What llama.cpp is told about its fused attention. On a CPU that goes from token to token and head to head, at a price for each that narrow heads are not worth:
 * without it, heads of 32 numbers give 1.4 times the tokens/s at 1 stream and 2 times at 32 (prompts of 1,000 tokens and more take twice as long);
 * heads of 64 give 0.9 times, and their prompts take 1.3 times as long. A GPU, or a part of one, chooses for itself.
 */
export function flashAttention(isOnCpu: boolean, { embedding_length: width = 0, attention = {} }: Heads): 'auto' | false {
  const { head_count: heads, key_length: size = typeof heads === 'number' ? width / heads : 0 } = attention
  return isOnCpu && size > 0 && size < WORTH_FUSING ? false : 'auto'
}

const WORTH_FUSING = 64
