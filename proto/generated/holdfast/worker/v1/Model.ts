// Original file: proto/worker.proto

import type { Long } from '@grpc/proto-loader';

export interface Model {
  'name'?: (string);
  'engine'?: (string);
  'state'?: (string);
  'detail'?: (string);
  'slots'?: (number);
  'busy'?: (number);
  'contextTokens'?: (number);
  'maxTokenBytes'?: (number);
  'sha256'?: (string);
  'tokensPerSecond'?: (number | string);
  'firstTokenMs'?: (number | string);
  'promptTokens'?: (number | string | Long);
  'cachedTokens'?: (number | string | Long);
  'generatedTokens'?: (number | string | Long);
  'restarts'?: (number);
  'sizeBytes'?: (number | string | Long);
  'prefixes'?: (string)[];
  'abilities'?: (string)[];
  'tier'?: (string);
  'startsOver'?: (boolean);
  'limitedUntilMs'?: (number | string | Long);
  'quotaRatio'?: (number | string);
  'hasQuota'?: (boolean);
  'needsPerson'?: (boolean);
  'firstTokenTimeoutMs'?: (number);
  'nextTokenTimeoutMs'?: (number);
}

export interface Model__Output {
  'name': (string);
  'engine': (string);
  'state': (string);
  'detail': (string);
  'slots': (number);
  'busy': (number);
  'contextTokens': (number);
  'maxTokenBytes': (number);
  'sha256': (string);
  'tokensPerSecond': (number);
  'firstTokenMs': (number);
  'promptTokens': (number);
  'cachedTokens': (number);
  'generatedTokens': (number);
  'restarts': (number);
  'sizeBytes': (number);
  'prefixes': (string)[];
  'abilities': (string)[];
  'tier': (string);
  'startsOver': (boolean);
  'limitedUntilMs': (number);
  'quotaRatio': (number);
  'hasQuota': (boolean);
  'needsPerson': (boolean);
  'firstTokenTimeoutMs': (number);
  'nextTokenTimeoutMs': (number);
}
