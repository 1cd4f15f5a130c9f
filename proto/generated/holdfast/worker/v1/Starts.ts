// Original file: proto/worker.proto

import type { Start as _holdfast_worker_v1_Start, Start__Output as _holdfast_worker_v1_Start__Output } from '../../../holdfast/worker/v1/Start.ts';

export interface Starts {
  'attempts'?: (_holdfast_worker_v1_Start)[];
}

export interface Starts__Output {
  'attempts': (_holdfast_worker_v1_Start__Output)[];
}
