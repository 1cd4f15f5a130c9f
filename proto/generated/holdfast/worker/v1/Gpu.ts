// Original file: proto/worker.proto

import type { Long } from '@grpc/proto-loader';

export interface Gpu {
  'name'?: (string);
  'utilizationRatio'?: (number | string);
  'memoryBytes'?: (number | string | Long);
  'memoryUsedBytes'?: (number | string | Long);
  'temperatureCelsius'?: (number | string);
  'powerWatts'?: (number | string);
}

export interface Gpu__Output {
  'name': (string);
  'utilizationRatio': (number);
  'memoryBytes': (number);
  'memoryUsedBytes': (number);
  'temperatureCelsius': (number);
  'powerWatts': (number);
}
