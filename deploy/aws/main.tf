# What Catchment needs to read an AWS trail: the queue that gives notice of the trail's log files, a queue for the calls
# that EventBridge tells of within seconds, and the least role that reads both. The trail and its bucket exist already.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

data "aws_partition" "current" {}
data "aws_caller_identity" "current" {}

locals {
  partition   = data.aws_partition.current.partition
  account     = data.aws_caller_identity.current.account_id
  bucket_arn  = "arn:${local.partition}:s3:::${var.bucket_name}"
  log_objects = "${local.bucket_arn}/${var.bucket_prefix}AWSLogs/*"
  queues      = var.eventbridge ? [aws_sqs_queue.logs.arn, aws_sqs_queue.events[0].arn] : [aws_sqs_queue.logs.arn]
}

# --- Log files: bucket → queue ---

resource "aws_sqs_queue" "dead" {
  name                      = "${var.name}-dead"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  tags                      = var.tags
}

resource "aws_sqs_queue" "logs" {
  name                       = var.name
  message_retention_seconds  = 1209600
  visibility_timeout_seconds = 120
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead.arn
    maxReceiveCount     = var.max_receives
  })
  tags = var.tags
}

data "aws_iam_policy_document" "logs_queue" {
  statement {
    sid       = "TrailBucketGivesNotice"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.logs.arn]
    principals {
      type        = "Service"
      identifiers = ["s3.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [local.bucket_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_sqs_queue_policy" "logs" {
  queue_url = aws_sqs_queue.logs.id
  policy    = data.aws_iam_policy_document.logs_queue.json
}

# A bucket has one notification configuration: set manage_bucket_notification to false where another module holds it.
resource "aws_s3_bucket_notification" "logs" {
  count  = var.manage_bucket_notification ? 1 : 0
  bucket = var.bucket_name

  queue {
    queue_arn     = aws_sqs_queue.logs.arn
    events        = ["s3:ObjectCreated:*"]
    filter_prefix = "${var.bucket_prefix}AWSLogs/"
    filter_suffix = ".json.gz"
  }

  depends_on = [aws_sqs_queue_policy.logs]
}

# --- Calls within seconds: EventBridge → queue (in the module's region; use the module once in each) ---

resource "aws_sqs_queue" "events" {
  count                      = var.eventbridge ? 1 : 0
  name                       = "${var.name}-events"
  message_retention_seconds  = 1209600
  visibility_timeout_seconds = 120
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead.arn
    maxReceiveCount     = var.max_receives
  })
  tags = var.tags
}

resource "aws_cloudwatch_event_rule" "calls" {
  count       = var.eventbridge ? 1 : 0
  name        = var.name
  description = "Calls that CloudTrail records, for Catchment"
  event_pattern = jsonencode({
    "detail-type" = [
      "AWS API Call via CloudTrail",
      "AWS Service Event via CloudTrail",
      "AWS Console Sign In via CloudTrail",
      "AWS Console Action via CloudTrail",
    ]
    # Reads are no changes; leaving them out here spares the queue.
    detail = {
      readOnly = [{ "anything-but" = [true] }]
    }
  })
  tags = var.tags
}

resource "aws_cloudwatch_event_target" "calls" {
  count     = var.eventbridge ? 1 : 0
  rule      = aws_cloudwatch_event_rule.calls[0].name
  target_id = "catchment"
  arn       = aws_sqs_queue.events[0].arn
}

data "aws_iam_policy_document" "events_queue" {
  count = var.eventbridge ? 1 : 0
  statement {
    sid       = "RuleSendsCalls"
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.events[0].arn]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_cloudwatch_event_rule.calls[0].arn]
    }
  }
}

resource "aws_sqs_queue_policy" "events" {
  count     = var.eventbridge ? 1 : 0
  queue_url = aws_sqs_queue.events[0].id
  policy    = data.aws_iam_policy_document.events_queue[0].json
}

# --- The role that Catchment takes ---

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "AWS"
      identifiers = var.trusted_principals
    }
    dynamic "condition" {
      for_each = var.external_id == null ? [] : [var.external_id]
      content {
        test     = "StringEquals"
        variable = "sts:ExternalId"
        values   = [condition.value]
      }
    }
  }
}

data "aws_iam_policy_document" "read" {
  statement {
    sid = "Queues"
    actions = [
      "sqs:ReceiveMessage",
      "sqs:DeleteMessage",
      "sqs:ChangeMessageVisibility",
      "sqs:GetQueueAttributes",
    ]
    resources = local.queues
  }
  statement {
    sid       = "LogFiles"
    actions   = ["s3:GetObject"]
    resources = [local.log_objects]
  }
  dynamic "statement" {
    for_each = var.backfill ? [local.bucket_arn] : []
    content {
      sid       = "Backfill"
      actions   = ["s3:ListBucket"]
      resources = [statement.value]
    }
  }
  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]
    content {
      sid       = "LogFileKey"
      actions   = ["kms:Decrypt"]
      resources = [statement.value]
    }
  }
  dynamic "statement" {
    for_each = var.doctor ? [1] : []
    content {
      sid = "Doctor"
      actions = [
        "cloudtrail:DescribeTrails",
        "cloudtrail:GetTrailStatus",
        "s3:GetBucketNotification",
        "sns:GetSubscriptionAttributes",
      ]
      resources = ["*"]
    }
  }
}

resource "aws_iam_role" "reader" {
  count              = length(var.trusted_principals) == 0 ? 0 : 1
  name               = var.name
  description        = "Reads CloudTrail's log files and events for Catchment"
  assume_role_policy = data.aws_iam_policy_document.trust.json
  tags               = var.tags
}

resource "aws_iam_role_policy" "reader" {
  count  = length(var.trusted_principals) == 0 ? 0 : 1
  name   = "read"
  role   = aws_iam_role.reader[0].id
  policy = data.aws_iam_policy_document.read.json
}
