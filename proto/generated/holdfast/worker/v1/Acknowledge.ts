// Original file: proto/worker.proto

import type { Held as _holdfast_worker_v1_Held, Held__Output as _holdfast_worker_v1_Held__Output } from '../../../holdfast/worker/v1/Held.ts';

export interface Acknowledge {
  'attempts'?: (_holdfast_worker_v1_Held)[];
}

export interface Acknowledge__Output {
  'attempts': (_holdfast_worker_v1_Held__Output)[];
}
