output "queue_url" {
  description = "queue_url of the source aws_s3_sqs."
  value       = aws_sqs_queue.logs.id
}

output "events_queue_url" {
  description = "queue_url of the source aws_eventbridge_sqs; null without EventBridge."
  value       = one(aws_sqs_queue.events[*].id)
}

output "dead_letter_queue_url" {
  description = "Where messages go that could not be worked off."
  value       = aws_sqs_queue.dead.id
}

output "role_arn" {
  description = "role_arn of both sources; null when no role was made."
  value       = one(aws_iam_role.reader[*].arn)
}

output "policy_json" {
  description = "What the role may do, to be attached to another identity."
  value       = data.aws_iam_policy_document.read.json
}

output "configuration" {
  description = "The sections for catchment.toml."
  value       = <<-EOT
    [sources.trail.aws_s3_sqs]
    queue_url = "${aws_sqs_queue.logs.id}"
    %{~if length(aws_iam_role.reader) > 0~}
    role_arn = "${aws_iam_role.reader[0].arn}"
    %{~endif~}
    %{~if var.eventbridge~}

    [sources.calls.aws_eventbridge_sqs]
    queue_url = "${aws_sqs_queue.events[0].id}"
    %{~if length(aws_iam_role.reader) > 0~}
    role_arn = "${aws_iam_role.reader[0].arn}"
    %{~endif~}
    %{~endif~}
  EOT
}
