// Original file: proto/worker.proto


export interface Finished {
  'job'?: (string);
  'attempt'?: (number);
  'tokens'?: (number);
  'text'?: (string);
  'finishReason'?: (string);
  'promptTokens'?: (number);
  'completionTokens'?: (number);
  'cachedTokens'?: (number);
  'firstTokenMs'?: (number | string);
  'totalMs'?: (number | string);
}

export interface Finished__Output {
  'job': (string);
  'attempt': (number);
  'tokens': (number);
  'text': (string);
  'finishReason': (string);
  'promptTokens': (number);
  'completionTokens': (number);
  'cachedTokens': (number);
  'firstTokenMs': (number);
  'totalMs': (number);
}
