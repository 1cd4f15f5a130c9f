// Original file: proto/worker.proto

import type { Chunk as _holdfast_worker_v1_Chunk, Chunk__Output as _holdfast_worker_v1_Chunk__Output } from '../../../holdfast/worker/v1/Chunk.ts';
import type { Finished as _holdfast_worker_v1_Finished, Finished__Output as _holdfast_worker_v1_Finished__Output } from '../../../holdfast/worker/v1/Finished.ts';
import type { Failed as _holdfast_worker_v1_Failed, Failed__Output as _holdfast_worker_v1_Failed__Output } from '../../../holdfast/worker/v1/Failed.ts';

export interface Output {
  'chunks'?: (_holdfast_worker_v1_Chunk)[];
  'finished'?: (_holdfast_worker_v1_Finished)[];
  'failed'?: (_holdfast_worker_v1_Failed)[];
}

export interface Output__Output {
  'chunks': (_holdfast_worker_v1_Chunk__Output)[];
  'finished': (_holdfast_worker_v1_Finished__Output)[];
  'failed': (_holdfast_worker_v1_Failed__Output)[];
}
