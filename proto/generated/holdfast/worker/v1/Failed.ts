// Original file: proto/worker.proto

import type { Long } from '@grpc/proto-loader';

export interface Failed {
  'job'?: (string);
  'attempt'?: (number);
  'layer'?: (string);
  'code'?: (string);
  'message'?: (string);
  'retryable'?: (boolean);
  'retryAtMs'?: (number | string | Long);
  'providerStatus'?: (number);
}

export interface Failed__Output {
  'job': (string);
  'attempt': (number);
  'layer': (string);
  'code': (string);
  'message': (string);
  'retryable': (boolean);
  'retryAtMs': (number);
  'providerStatus': (number);
}
