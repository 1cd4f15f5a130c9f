// Original file: proto/worker.proto


export interface Chunk {
  'job'?: (string);
  'attempt'?: (number);
  'first'?: (number);
  'tokenIds'?: (number)[];
  'text'?: (string);
  'promptTokens'?: (number);
  'cachedTokens'?: (number);
  'delta'?: (string);
  'promptProcessed'?: (number);
}

export interface Chunk__Output {
  'job': (string);
  'attempt': (number);
  'first': (number);
  'tokenIds': (number)[];
  'text': (string);
  'promptTokens': (number);
  'cachedTokens': (number);
  'delta': (string);
  'promptProcessed': (number);
}
