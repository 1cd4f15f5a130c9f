// Original file: proto/worker.proto


export interface Accepted {
  'job'?: (string);
  'attempt'?: (number);
  'promptTokens'?: (number);
  'cachedTokens'?: (number);
}

export interface Accepted__Output {
  'job': (string);
  'attempt': (number);
  'promptTokens': (number);
  'cachedTokens': (number);
}
