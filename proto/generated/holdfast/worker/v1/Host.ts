// Original file: proto/worker.proto

import type { Gpu as _holdfast_worker_v1_Gpu, Gpu__Output as _holdfast_worker_v1_Gpu__Output } from '../../../holdfast/worker/v1/Gpu.ts';
import type { Long } from '@grpc/proto-loader';

export interface Host {
  'cpuRatio'?: (number | string);
  'cpuCores'?: (number);
  'memoryBytes'?: (number | string | Long);
  'memoryUsedBytes'?: (number | string | Long);
  'gpus'?: (_holdfast_worker_v1_Gpu)[];
  'platform'?: (string);
  'cpuModel'?: (string);
}

export interface Host__Output {
  'cpuRatio': (number);
  'cpuCores': (number);
  'memoryBytes': (number);
  'memoryUsedBytes': (number);
  'gpus': (_holdfast_worker_v1_Gpu__Output)[];
  'platform': (string);
  'cpuModel': (string);
}
