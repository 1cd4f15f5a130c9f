// Original file: proto/worker.proto

import type { Chunk as _holdfast_worker_v1_Chunk, Chunk__Output as _holdfast_worker_v1_Chunk__Output } from '../../../holdfast/worker/v1/Chunk.ts';

export interface Chunks {
  'chunks'?: (_holdfast_worker_v1_Chunk)[];
}

export interface Chunks__Output {
  'chunks': (_holdfast_worker_v1_Chunk__Output)[];
}
