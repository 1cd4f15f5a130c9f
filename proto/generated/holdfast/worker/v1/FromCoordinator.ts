// Original file: proto/worker.proto

import type { Welcome as _holdfast_worker_v1_Welcome, Welcome__Output as _holdfast_worker_v1_Welcome__Output } from '../../../holdfast/worker/v1/Welcome.ts';
import type { Start as _holdfast_worker_v1_Start, Start__Output as _holdfast_worker_v1_Start__Output } from '../../../holdfast/worker/v1/Start.ts';
import type { Cancel as _holdfast_worker_v1_Cancel, Cancel__Output as _holdfast_worker_v1_Cancel__Output } from '../../../holdfast/worker/v1/Cancel.ts';
import type { Acknowledge as _holdfast_worker_v1_Acknowledge, Acknowledge__Output as _holdfast_worker_v1_Acknowledge__Output } from '../../../holdfast/worker/v1/Acknowledge.ts';
import type { Resume as _holdfast_worker_v1_Resume, Resume__Output as _holdfast_worker_v1_Resume__Output } from '../../../holdfast/worker/v1/Resume.ts';
import type { Received as _holdfast_worker_v1_Received, Received__Output as _holdfast_worker_v1_Received__Output } from '../../../holdfast/worker/v1/Received.ts';
import type { Drain as _holdfast_worker_v1_Drain, Drain__Output as _holdfast_worker_v1_Drain__Output } from '../../../holdfast/worker/v1/Drain.ts';
import type { Starts as _holdfast_worker_v1_Starts, Starts__Output as _holdfast_worker_v1_Starts__Output } from '../../../holdfast/worker/v1/Starts.ts';

export interface FromCoordinator {
  'welcome'?: (_holdfast_worker_v1_Welcome | null);
  'start'?: (_holdfast_worker_v1_Start | null);
  'cancel'?: (_holdfast_worker_v1_Cancel | null);
  'acknowledge'?: (_holdfast_worker_v1_Acknowledge | null);
  'resume'?: (_holdfast_worker_v1_Resume | null);
  'received'?: (_holdfast_worker_v1_Received | null);
  'drain'?: (_holdfast_worker_v1_Drain | null);
  'starts'?: (_holdfast_worker_v1_Starts | null);
  'message'?: "welcome"|"start"|"cancel"|"acknowledge"|"resume"|"received"|"drain"|"starts";
}

export interface FromCoordinator__Output {
  'welcome'?: (_holdfast_worker_v1_Welcome__Output | null);
  'start'?: (_holdfast_worker_v1_Start__Output | null);
  'cancel'?: (_holdfast_worker_v1_Cancel__Output | null);
  'acknowledge'?: (_holdfast_worker_v1_Acknowledge__Output | null);
  'resume'?: (_holdfast_worker_v1_Resume__Output | null);
  'received'?: (_holdfast_worker_v1_Received__Output | null);
  'drain'?: (_holdfast_worker_v1_Drain__Output | null);
  'starts'?: (_holdfast_worker_v1_Starts__Output | null);
  'message'?: "welcome"|"start"|"cancel"|"acknowledge"|"resume"|"received"|"drain"|"starts";
}
