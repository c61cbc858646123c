"""A year of real flights out of New York: half an hour before each leaves, will it arrive more than 15 minutes late?"""
