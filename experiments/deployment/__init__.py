"""What does a request take, prefill on chips and decode on wafers, of a model of any size?"""
