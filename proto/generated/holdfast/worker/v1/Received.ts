// Original file: proto/worker.proto

import type { Long } from '@grpc/proto-loader';

export interface Received {
  'outputs'?: (number | string | Long);
}

export interface Received__Output {
  'outputs': (number);
}
