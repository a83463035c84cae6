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

data "aws_caller_identity" "this" {}

data "aws_region" "this" {}

locals {
  ecs         = "arn:aws:ecs:${data.aws_region.this.name}:${data.aws_caller_identity.this.account_id}"
  definitions = [for family in values(var.families) : "${local.ecs}:task-definition/${family}:*"]
}

resource "aws_iam_role" "deploy" {
  name                 = "${var.name}-deploy"
  max_session_duration = 3600
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect = "Allow"
      Action = "sts:AssumeRoleWithWebIdentity"
      Principal = {
        Federated = "arn:aws:iam::${data.aws_caller_identity.this.account_id}:oidc-provider/token.actions.githubusercontent.com"
      }
      Condition = { StringEquals = {
        "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
        "token.actions.githubusercontent.com:sub" = "${var.github_subject}:environment:${var.environment}"
      } }
    }]
  })
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

output "role_arn" {
  value = aws_iam_role.deploy.arn
}
