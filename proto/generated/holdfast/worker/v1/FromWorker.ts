// Original file: proto/worker.proto

import type { Hello as _holdfast_worker_v1_Hello, Hello__Output as _holdfast_worker_v1_Hello__Output } from '../../../holdfast/worker/v1/Hello.ts';
import type { Heartbeat as _holdfast_worker_v1_Heartbeat, Heartbeat__Output as _holdfast_worker_v1_Heartbeat__Output } from '../../../holdfast/worker/v1/Heartbeat.ts';
import type { Refused as _holdfast_worker_v1_Refused, Refused__Output as _holdfast_worker_v1_Refused__Output } from '../../../holdfast/worker/v1/Refused.ts';
import type { Output as _holdfast_worker_v1_Output, Output__Output as _holdfast_worker_v1_Output__Output } from '../../../holdfast/worker/v1/Output.ts';
import type { Draining as _holdfast_worker_v1_Draining, Draining__Output as _holdfast_worker_v1_Draining__Output } from '../../../holdfast/worker/v1/Draining.ts';

export interface FromWorker {
  'hello'?: (_holdfast_worker_v1_Hello | null);
  'heartbeat'?: (_holdfast_worker_v1_Heartbeat | null);
  'refused'?: (_holdfast_worker_v1_Refused | null);
  'output'?: (_holdfast_worker_v1_Output | null);
  'draining'?: (_holdfast_worker_v1_Draining | null);
  'message'?: "hello"|"heartbeat"|"refused"|"output"|"draining";
}

export interface FromWorker__Output {
  'hello'?: (_holdfast_worker_v1_Hello__Output | null);
  'heartbeat'?: (_holdfast_worker_v1_Heartbeat__Output | null);
  'refused'?: (_holdfast_worker_v1_Refused__Output | null);
  'output'?: (_holdfast_worker_v1_Output__Output | null);
  'draining'?: (_holdfast_worker_v1_Draining__Output | null);
  'message'?: "hello"|"heartbeat"|"refused"|"output"|"draining";
}
