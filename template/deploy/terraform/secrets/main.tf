# The environment's key, and the secrets that nobody has to think up. They are made while Terraform runs and written to
# Secrets Manager only: no plan and no state holds them. Raise a number in `versions` to have a new one.

terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

variable "environment" {
  description = "staging or production."
  type        = string
}

variable "versions" {
  description = "Secrets that are to be made anew: their names, each with a number that has not been before."
  type        = map(number)
  default     = {}
}

locals {
  answers = jsondecode(file("${path.module}/../answers.json"))
  name    = "${local.answers.name}-${var.environment}"
  versions = merge(
    { app_secret_key = 1, app_smoke_password = 1, database_app = 1, database_backup = 1, database_migrator = 1 },
    local.answers.valkey ? { valkey = 1 } : {},
    var.versions,
  )
}

data "aws_caller_identity" "this" {}

data "aws_region" "this" {}

resource "aws_kms_key" "this" {
  description         = "Everything of ${local.name} that lies on a disk"
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid       = "WhatThePoliciesOfTheAccountAllow"
        Effect    = "Allow"
        Principal = { AWS = "arn:aws:iam::${data.aws_caller_identity.this.account_id}:root" }
        Action    = "kms:*"
        Resource  = "*"
      },
      {
        Sid       = "LogsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = "logs.${data.aws_region.this.name}.amazonaws.com" }
        Action    = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
        Resource  = "*"
        Condition = { ArnLike = {
          "kms:EncryptionContext:aws:logs:arn" = "arn:aws:logs:${data.aws_region.this.name}:${data.aws_caller_identity.this.account_id}:*"
        } }
      },
      {
        Sid       = "AlarmsOfThisAccount"
        Effect    = "Allow"
        Principal = { Service = "cloudwatch.amazonaws.com" }
        Action    = ["kms:Decrypt", "kms:GenerateDataKey*"]
        Resource  = "*"
        Condition = { StringEquals = { "aws:SourceAccount" = data.aws_caller_identity.this.account_id } }
      },
    ]
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${local.name}"
  target_key_id = aws_kms_key.this.key_id
}

resource "aws_secretsmanager_secret" "made" {
  #checkov:skip=CKV2_AWS_57:a rotation by itself would lock out tasks that are running; raise a number in `versions` instead
  for_each    = local.versions
  name        = "${local.name}/${each.key}"
  description = "Made by Terraform, and known to nobody."
  kms_key_id  = aws_kms_key.this.arn
}

ephemeral "aws_secretsmanager_random_password" "new" {
  for_each            = local.versions
  password_length     = 48
  exclude_punctuation = true
}

resource "aws_secretsmanager_secret_version" "made" {
  for_each                 = local.versions
  secret_id                = aws_secretsmanager_secret.made[each.key].id
  secret_string_wo         = ephemeral.aws_secretsmanager_random_password.new[each.key].random_password
  secret_string_wo_version = each.value
}

# Read again, because what was made in this run counts only if this is the run that wrote it.
ephemeral "aws_secretsmanager_secret_version" "database_app" {
  secret_id = aws_secretsmanager_secret_version.made["database_app"].secret_id
}

ephemeral "aws_secretsmanager_secret_version" "database_backup" {
  secret_id = aws_secretsmanager_secret_version.made["database_backup"].secret_id
}

ephemeral "aws_secretsmanager_secret_version" "database_migrator" {
  secret_id = aws_secretsmanager_secret_version.made["database_migrator"].secret_id
}

output "key_arn" {
  description = "Of the environment's key."
  value       = aws_kms_key.this.arn
}

output "arns" {
  description = "Where each secret is kept."
  value       = { for name, version in aws_secretsmanager_secret_version.made : name => version.secret_id }
}

output "versions" {
  description = "Which version of each secret is in use."
  value       = local.versions
}

output "database_app" {
  description = "The password, for arguments that are written and never read."
  value       = ephemeral.aws_secretsmanager_secret_version.database_app.secret_string
  ephemeral   = true
}

output "database_backup" {
  description = "The password, for arguments that are written and never read."
  value       = ephemeral.aws_secretsmanager_secret_version.database_backup.secret_string
  ephemeral   = true
}

output "database_migrator" {
  description = "The password, for arguments that are written and never read."
  value       = ephemeral.aws_secretsmanager_secret_version.database_migrator.secret_string
  ephemeral   = true
}
