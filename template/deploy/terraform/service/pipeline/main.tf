# Where images are, and the one role that a workflow of GitHub may take: in this environment's jobs, and in no others.

variable "name" {
  type = string
}

variable "environment" {
  type = string
}

variable "github_subject" {
  type = string
}

variable "cluster" {
  type = object({ name = string, arn = string })
}

variable "service_arn" {
  type = string
}

variable "families" {
  type = map(string)
}

variable "role_arns" {
  description = "Of the roles that tasks have."
  type        = list(string)
}

variable "log_group_arn" {
  type = string
}

variable "repository_arn" {
  type = string
}

variable "backups_arn" {
  description = "Of the bucket."
  type        = string
}

variable "key_arn" {
  type = string
}

data "aws_caller_identity" "this" {}

data "aws_region" "this" {}

locals {
  ecs         = "arn:aws:ecs:${data.aws_region.this.name}:${data.aws_caller_identity.this.account_id}"
  definitions = [for family in values(var.families) : "${local.ecs}:task-definition/${family}:*"]
  # Who may take a role: the jobs in one of GitHub's environments.
  trust = { for environment in [var.environment, "drill"] : environment => jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect = "Allow"
      Action = "sts:AssumeRoleWithWebIdentity"
      Principal = {
        Federated = "arn:aws:iam::${data.aws_caller_identity.this.account_id}:oidc-provider/token.actions.githubusercontent.com"
      }
      Condition = { StringEquals = {
        "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
        "token.actions.githubusercontent.com:sub" = "${var.github_subject}:environment:${environment}"
      } }
    }]
  }) }
}

resource "aws_iam_role" "deploy" {
  name                 = "${var.name}-deploy"
  max_session_duration = 3600
  assume_role_policy   = local.trust[var.environment]
}

resource "aws_iam_role_policy" "deploy" {
  name = "deploy"
  role = aws_iam_role.deploy.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "SignInToTheRegistry"
        Effect   = "Allow"
        Action   = "ecr:GetAuthorizationToken"
        Resource = "*"
      },
      {
        Sid    = "BringAnImage"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload", "ecr:DescribeImages",
          "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        Resource = var.repository_arn
      },
      {
        Sid      = "ReadTaskDefinitions"
        Effect   = "Allow"
        Action   = "ecs:DescribeTaskDefinition"
        Resource = "*"
      },
      {
        Sid      = "WriteTaskDefinitions"
        Effect   = "Allow"
        Action   = ["ecs:RegisterTaskDefinition", "ecs:TagResource"]
        Resource = local.definitions
      },
      {
        Sid      = "PutThemIntoService"
        Effect   = "Allow"
        Action   = ["ecs:DescribeServices", "ecs:UpdateService"]
        Resource = var.service_arn
      },
      {
        Sid       = "RunOne"
        Effect    = "Allow"
        Action    = "ecs:RunTask"
        Resource  = local.definitions
        Condition = { ArnEquals = { "ecs:cluster" = var.cluster.arn } }
      },
      {
        Sid      = "SeeHowItEnded"
        Effect   = "Allow"
        Action   = "ecs:DescribeTasks"
        Resource = "${local.ecs}:task/${var.cluster.name}/*"
      },
      {
        Sid      = "ReadWhatItSaid"
        Effect   = "Allow"
        Action   = ["logs:FilterLogEvents", "logs:GetLogEvents"]
        Resource = "${var.log_group_arn}:*"
      },
      {
        Sid       = "GiveTasksTheirRoles"
        Effect    = "Allow"
        Action    = "iam:PassRole"
        Resource  = var.role_arns
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
    ]
  })
}

# For the restore drill, in GitHub's environment of that name: it reads what production backed up, and leaves its report.
resource "aws_iam_role" "drill" {
  count              = var.environment == "production" ? 1 : 0
  name               = "${var.name}-drill"
  assume_role_policy = local.trust["drill"]
}

resource "aws_iam_role_policy" "drill" {
  count = length(aws_iam_role.drill)
  name  = "drill"
  role  = aws_iam_role.drill[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      { Effect = "Allow", Action = "s3:ListBucket", Resource = var.backups_arn },
      { Effect = "Allow", Action = "s3:GetObject", Resource = "${var.backups_arn}/*" },
      { Effect = "Allow", Action = "s3:PutObject", Resource = "${var.backups_arn}/${var.name}/drill.*" },
      { Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = var.key_arn },
    ]
  })
}

output "role_arn" {
  value = aws_iam_role.deploy.arn
}

output "drill_role_arn" {
  description = "In production; null elsewhere."
  value       = one(aws_iam_role.drill[*].arn)
}
