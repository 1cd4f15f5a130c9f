// Original file: proto/worker.proto


export interface Failed {
  'job'?: (string);
  'attempt'?: (number);
  'layer'?: (string);
  'code'?: (string);
  'message'?: (string);
  'retryable'?: (boolean);
}

export interface Failed__Output {
  'job': (string);
  'attempt': (number);
  'layer': (string);
  'code': (string);
  'message': (string);
  'retryable': (boolean);
}
