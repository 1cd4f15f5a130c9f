// Original file: proto/worker.proto

import type { Model as _holdfast_worker_v1_Model, Model__Output as _holdfast_worker_v1_Model__Output } from '../../../holdfast/worker/v1/Model.ts';
import type { Host as _holdfast_worker_v1_Host, Host__Output as _holdfast_worker_v1_Host__Output } from '../../../holdfast/worker/v1/Host.ts';
import type { Long } from '@grpc/proto-loader';

export interface Heartbeat {
  'count'?: (number | string | Long);
  'models'?: (_holdfast_worker_v1_Model)[];
  'host'?: (_holdfast_worker_v1_Host | null);
}

export interface Heartbeat__Output {
  'count': (number);
  'models': (_holdfast_worker_v1_Model__Output)[];
  'host': (_holdfast_worker_v1_Host__Output | null);
}
