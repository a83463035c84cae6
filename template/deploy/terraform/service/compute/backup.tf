# A backup a day, made by the image that was deployed last, and by a task that may add to the bucket: what it removes there
# is hidden, and its versions stay until their lock ends.

resource "aws_scheduler_schedule" "backup" {
  name                = "${var.name}-backup"
  description         = "chassis backup"
  schedule_expression = "cron(0 1 * * ? *)"
  kms_key_arn         = var.key_arn
  flexible_time_window {
    mode = "OFF"
  }
  target {
    arn      = aws_ecs_cluster.this.arn
    role_arn = aws_iam_role.schedule.arn
    ecs_parameters {
      # Without a revision: of them all, the newest.
      task_definition_arn = aws_ecs_task_definition.this["backup"].arn_without_revision
      launch_type         = "FARGATE"
      propagate_tags      = "TASK_DEFINITION"
      network_configuration {
        subnets          = var.subnets
        security_groups  = [aws_security_group.tasks.id]
        assign_public_ip = false
      }
    }
  }
  lifecycle {
    precondition {
      condition     = length(var.backup.recipients) > 0
      error_message = "backup_recipients is empty: docs/backups.md says how to make a key."
    }
  }
}

# What starts it.
resource "aws_iam_role" "schedule" {
  name = "${var.name}-schedule"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "schedule" {
  name = "run"
  role = aws_iam_role.schedule.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect = "Allow"
        Action = "ecs:RunTask"
        Resource = [
          aws_ecs_task_definition.this["backup"].arn_without_revision,
          "${aws_ecs_task_definition.this["backup"].arn_without_revision}:*",
        ]
        Condition = { ArnEquals = { "ecs:cluster" = aws_ecs_cluster.this.arn } }
      },
      {
        Effect    = "Allow"
        Action    = "iam:PassRole"
        Resource  = [aws_iam_role.start["backup"].arn, aws_iam_role.backup.arn]
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
      { Effect = "Allow", Action = "kms:Decrypt", Resource = var.key_arn },
    ]
  })
}

# What the task itself may do in AWS.
resource "aws_iam_role" "backup" {
  name               = "${var.name}-backup"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy" "backup" {
  name = "bucket"
  role = aws_iam_role.backup.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = var.backup.bucket.arn },
      {
        Effect   = "Allow"
        Action   = ["s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
        Resource = "${var.backup.bucket.arn}/${var.name}/*"
      },
      { Effect = "Allow", Action = ["kms:GenerateDataKey", "kms:Decrypt"], Resource = var.key_arn },
    ]
  })
}

# What the one that restores may do: read.
resource "aws_iam_role" "restore" {
  name               = "${var.name}-restore"
  assume_role_policy = local.trust
}

resource "aws_iam_role_policy" "restore" {
  name = "bucket"
  role = aws_iam_role.restore.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = var.backup.bucket.arn },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "${var.backup.bucket.arn}/${var.name}/*" },
      { Effect = "Allow", Action = "kms:Decrypt", Resource = var.key_arn },
    ]
  })
}
