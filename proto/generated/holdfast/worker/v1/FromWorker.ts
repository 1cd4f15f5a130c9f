// Original file: proto/worker.proto

import type { Hello as _holdfast_worker_v1_Hello, Hello__Output as _holdfast_worker_v1_Hello__Output } from '../../../holdfast/worker/v1/Hello.ts';
import type { Heartbeat as _holdfast_worker_v1_Heartbeat, Heartbeat__Output as _holdfast_worker_v1_Heartbeat__Output } from '../../../holdfast/worker/v1/Heartbeat.ts';
import type { Accepted as _holdfast_worker_v1_Accepted, Accepted__Output as _holdfast_worker_v1_Accepted__Output } from '../../../holdfast/worker/v1/Accepted.ts';
import type { Refused as _holdfast_worker_v1_Refused, Refused__Output as _holdfast_worker_v1_Refused__Output } from '../../../holdfast/worker/v1/Refused.ts';
import type { Chunks as _holdfast_worker_v1_Chunks, Chunks__Output as _holdfast_worker_v1_Chunks__Output } from '../../../holdfast/worker/v1/Chunks.ts';
import type { Finished as _holdfast_worker_v1_Finished, Finished__Output as _holdfast_worker_v1_Finished__Output } from '../../../holdfast/worker/v1/Finished.ts';
import type { Failed as _holdfast_worker_v1_Failed, Failed__Output as _holdfast_worker_v1_Failed__Output } from '../../../holdfast/worker/v1/Failed.ts';
import type { Draining as _holdfast_worker_v1_Draining, Draining__Output as _holdfast_worker_v1_Draining__Output } from '../../../holdfast/worker/v1/Draining.ts';

export interface FromWorker {
  'hello'?: (_holdfast_worker_v1_Hello | null);
  'heartbeat'?: (_holdfast_worker_v1_Heartbeat | null);
  'accepted'?: (_holdfast_worker_v1_Accepted | null);
  'refused'?: (_holdfast_worker_v1_Refused | null);
  'chunks'?: (_holdfast_worker_v1_Chunks | null);
  'finished'?: (_holdfast_worker_v1_Finished | null);
  'failed'?: (_holdfast_worker_v1_Failed | null);
  'draining'?: (_holdfast_worker_v1_Draining | null);
  'message'?: "hello"|"heartbeat"|"accepted"|"refused"|"chunks"|"finished"|"failed"|"draining";
}

export interface FromWorker__Output {
  'hello'?: (_holdfast_worker_v1_Hello__Output | null);
  'heartbeat'?: (_holdfast_worker_v1_Heartbeat__Output | null);
  'accepted'?: (_holdfast_worker_v1_Accepted__Output | null);
  'refused'?: (_holdfast_worker_v1_Refused__Output | null);
  'chunks'?: (_holdfast_worker_v1_Chunks__Output | null);
  'finished'?: (_holdfast_worker_v1_Finished__Output | null);
  'failed'?: (_holdfast_worker_v1_Failed__Output | null);
  'draining'?: (_holdfast_worker_v1_Draining__Output | null);
  'message'?: "hello"|"heartbeat"|"accepted"|"refused"|"chunks"|"finished"|"failed"|"draining";
}
