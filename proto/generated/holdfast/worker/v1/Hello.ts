// Original file: proto/worker.proto

import type { Host as _holdfast_worker_v1_Host, Host__Output as _holdfast_worker_v1_Host__Output } from '../../../holdfast/worker/v1/Host.ts';
import type { Model as _holdfast_worker_v1_Model, Model__Output as _holdfast_worker_v1_Model__Output } from '../../../holdfast/worker/v1/Model.ts';
import type { Held as _holdfast_worker_v1_Held, Held__Output as _holdfast_worker_v1_Held__Output } from '../../../holdfast/worker/v1/Held.ts';

export interface Hello {
  'protocolMajor'?: (number);
  'protocolMinor'?: (number);
  'worker'?: (string);
  'name'?: (string);
  'session'?: (string);
  'version'?: (string);
  'host'?: (_holdfast_worker_v1_Host | null);
  'models'?: (_holdfast_worker_v1_Model)[];
  'held'?: (_holdfast_worker_v1_Held)[];
  'draining'?: (boolean);
  'link'?: (string);
}

export interface Hello__Output {
  'protocolMajor': (number);
  'protocolMinor': (number);
  'worker': (string);
  'name': (string);
  'session': (string);
  'version': (string);
  'host': (_holdfast_worker_v1_Host__Output | null);
  'models': (_holdfast_worker_v1_Model__Output)[];
  'held': (_holdfast_worker_v1_Held__Output)[];
  'draining': (boolean);
  'link': (string);
}
