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
  'delta'?: (string);
  'stopSequence'?: (string);
  'reasoningTokens'?: (number);
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
  'delta': (string);
  'stopSequence': (string);
  'reasoningTokens': (number);
}
