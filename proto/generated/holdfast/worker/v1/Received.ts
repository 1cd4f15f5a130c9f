// Original file: proto/worker.proto

import type { Long } from '@grpc/proto-loader';

export interface Received {
  'chunks'?: (number | string | Long);
}

export interface Received__Output {
  'chunks': (number);
}
